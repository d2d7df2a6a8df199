"""Write: an explained module becomes the bytes of a file."""
