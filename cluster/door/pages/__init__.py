"""The pool's web page: what a key may see, signed in with it, drawn on the server."""
