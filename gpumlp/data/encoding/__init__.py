"""How columns become numbers for the network: fitted to the training rows, then fixed."""
