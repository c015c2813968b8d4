# After the files are gone. rpm knows no purge: launch records stay, so that side containers are known again when the
# package is installed again. The operator's /etc/portcullis stays in any case.
if [ "$1" -eq 0 ]; then
	# The package's list has files alone; what is not empty stays.
	find /usr/libexec/portcullis /usr/share/portcullis /usr/share/doc/portcullis /usr/share/licenses/portcullis \
		-depth -type d -exec rmdir {} \; 2>/dev/null || true
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload
	fi
fi
