# Fuzzing: libFuzzer targets for untrusted input, the corpus, and random differential cases.
# Each target runs its corpus and a bounded number of new inputs.
