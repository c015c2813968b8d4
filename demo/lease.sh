#!/bin/sh
# What udhcpc runs when it has a lease: takes the address.
# shellcheck disable=SC2154 # the variables are udhcpc's
case $1 in
bound | renew)
	ip address add "$ip/$mask" dev "$interface" 2>/dev/null
	echo "$interface has the lease of $ip/$mask for $lease s from $serverid"
	;;
esac
