# After the files are there, at an install and at an upgrade; see packaging/deb/postinst.
systemd-sysusers portcullis.conf
systemd-tmpfiles --create portcullis.conf
install -d -m 0755 /etc/portcullis/agents
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	# Only what runs; its socket is not touched, and side containers run on.
	systemctl try-restart 'portcullis@*.service'
fi
