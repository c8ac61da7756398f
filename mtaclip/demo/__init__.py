"""What `demo.py` and `app.py` do: files and cameras in, pictures, videos and views out."""
