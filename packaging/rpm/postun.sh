# After the files are gone. rpm knows no purge: launch records stay, so that side containers are known again when the
# package is installed again. The operator's /etc/portcullis stays in any case.
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
