# After the files are there: $1 is 1 at an install and more at an upgrade. Why it is like this is in packaging/deb/postinst.
systemd-sysusers portcullis.conf
install -d -m 0755 /etc/portcullis/agents
if [ "$1" -eq 1 ]; then
	systemctl --quiet preset portcullis.target
fi
if [ -d /run/systemd/system ]; then
	systemd-tmpfiles --create portcullis.conf
	systemctl daemon-reload
	if [ "$1" -eq 1 ] && systemctl --quiet is-enabled portcullis.target; then
		systemctl start portcullis.target
	fi
	# Only what runs; its socket is not touched, and side containers run on.
	systemctl try-restart 'portcullis@*.service' || true
fi
