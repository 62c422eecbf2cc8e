"""An app of Flower on handwritten digits."""
