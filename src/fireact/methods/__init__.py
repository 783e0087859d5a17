"""Prompting methods of the paper (section 3.2): one file each, one generator of Steps each."""
