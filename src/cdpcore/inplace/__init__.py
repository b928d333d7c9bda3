"""Before-images: a disk written in place, whose old content the log keeps."""
