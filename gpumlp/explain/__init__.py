"""What happens inside, for people to look at: gradients beside finite differences, activations, networks."""
