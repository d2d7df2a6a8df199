"""Files that are broken by accident or on purpose."""
