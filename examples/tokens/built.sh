#!/bin/sh
# Becomes the program or example $1, as cargo has built it: release first, then debug. Compiles it only where there is none.
name=$1
shift
target=${CARGO_TARGET_DIR:-../../target}
for build in release debug; do
  for program in "$target/$build/$name" "$target/$build/examples/$name"; do
    [ -x "$program" ] && exec "$program" "$@"
  done
done
echo "$name is not built; compiling it" >&2
if [ "$name" = mock-provider ]; then
  exec cargo run --quiet -p kissops-mock-provider -- "$@"
fi
exec cargo run --quiet -p kissops-examples --example "$name" -- "$@"
