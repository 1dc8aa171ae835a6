"""What turns chunks into vectors: a model a file, and the parts that they share."""
