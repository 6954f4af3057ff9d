"""What is made of figures/: the README's tables, the gallery, the poster, the film."""
