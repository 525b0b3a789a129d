"""What decides a training run (`recipe`) and what it leaves behind (`folder`, `checkpoints`); loading its model."""
