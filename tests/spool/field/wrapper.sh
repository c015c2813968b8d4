#!/bin/bash
# In an agent's container in the place of a command, as hosts in the field have it. Written anew, from how that one behaves:
#   SPOOL=DIR LOCK=FILE wrapper.sh [ARG]...
set -e

netns=$(ip netns identify)
arguments="$*"
exec 9>>"$LOCK"
flock -w 10 9
echo "$netns $arguments" >>"$SPOOL/processes"
date +%s >"$SPOOL/processes-timestamp"
