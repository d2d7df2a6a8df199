"""Sources: where models come from, one file a source; `build` picks among them by name."""
