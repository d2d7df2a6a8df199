"""Find: what a traced graph tells, without running it on any image of the user's."""
