"""The version of gpumlp: known without an installation, which a checkout may lack."""

VERSION = "0.1.0"
