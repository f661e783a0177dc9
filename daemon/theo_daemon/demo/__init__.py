"""`theo-router demo`: real servers, a dozen jobs, every kind of reply; then everything is stopped again."""
