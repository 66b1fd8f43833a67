#!/usr/bin/env bash
# Runs a program without address randomisation where the system allows it:
# the sanitizers of g++ 12 and clang 16 refuse the address layouts that newer kernels draw.
if setarch "$(uname -m)" -R true 2>/dev/null; then
  exec setarch "$(uname -m)" -R "$@"
fi
exec "$@"
