# The tests, tested: hand-made bugs are put into a copy of the headers, and each must be caught.
# tests/mutation.sh does the work.
