"""Parts of `bench live`: a watched server in a process of its own, peers of it, and what is measured of both."""
