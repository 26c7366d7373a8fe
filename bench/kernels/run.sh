#!/bin/sh
# Build ladder.c, run it for rows of 96 and of 768 elements, and print the tables; with --update, write
# them into README.md. CC chooses the compiler.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${CC:-cc}" -O3 -march=native -fno-math-errno -Wno-psabi ladder.c -o "$work/ladder" -lm
{
    sed '/^<!-- below: run.sh --update -->$/q' README.md
    printf '\n%s, %s:\n' "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)" \
        "$("${CC:-cc}" --version | head -n 1)"
    for length in 96 768; do
        echo
        "$work/ladder" "$length"
    done
} >"$work/README.md"
if [ "${1:-}" = --update ]; then
    cp "$work/README.md" README.md
else
    sed '1,/^<!-- below/d' "$work/README.md"
fi
