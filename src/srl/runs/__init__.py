"""What decides a training run (`recipe`), what it leaves behind (`folder`), and what is seen of it (`progress`)."""
