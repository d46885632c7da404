"""Which replica gets a request: policy alone. Nothing here speaks to anybody; counts and clocks come from outside."""
