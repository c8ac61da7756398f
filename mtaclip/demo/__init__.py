"""What `demo.py` does: files and cameras in, pictures and videos out."""
