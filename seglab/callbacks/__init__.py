"""What happens around the training loop. Each callback writes below the run folder (``trainer.default_root_dir``)."""
