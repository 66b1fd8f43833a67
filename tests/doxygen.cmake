# The reference manual: Doxygen over the public headers, without a warning.
# Needs doxygen.
