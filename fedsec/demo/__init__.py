"""The main job on real handwritten digits: its data, its clients, its models and the run (torch)."""
