"""Cell-JEPA on screens: what a cell would express after a perturbation."""
