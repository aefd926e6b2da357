"""Graphs of what was computed: read from a tape or a captured step, laid out, written as SVG, PNG, dot or Mermaid."""
