# Before the files go. $1 is how many versions stay installed: 0 is a removal.
if [ "$1" -eq 0 ]; then
	if [ -d /run/systemd/system ]; then
		# What activates them first, or a request would start a service again. Side containers run on.
		systemctl stop 'portcullis@*.socket' 'portcullis-spool@*.path' 'portcullis@*.service' portcullis.target
	fi
	systemctl --quiet disable portcullis@.socket portcullis-spool@.path portcullis.target
fi
