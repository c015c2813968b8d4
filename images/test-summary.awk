# What ran, from cargo's output: one line per crate and kind of tests, then the sum. For the end of `make test`.
/^ *Running |^ *Doc-tests / {
	# "Running unittests src/lib.rs (target/debug/deps/portcullis_wire-0123abcd)"
	what = $0
	sub(/^ *(Running|Doc-tests) /, "", what)
	binary = what
	sub(/^.*deps\//, "", binary)
	sub(/-[0-9a-f]+\)$/, "", binary)
	sub(/ \(.*$/, "", what)
	sub(/^unittests /, "", what)
	what = sprintf("%-28s %s", binary, what)
}
/^test result: / {
	# "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s"
	if ($4 + $6 + $8 > 0) {
		printf "  %5d passed %4d failed %4d ignored %8s   %s\n", $4, $6, $8, $NF, what
		passed += $4; failed += $6; ignored += $8
	}
}
/^test .* \.\.\. FAILED/ { names = names "    " $2 "\n" }
BEGIN { print "\nWhat ran:" }
END {
	printf "  %5d passed %4d failed %4d ignored in all\n", passed, failed, ignored
	if (names != "") printf "  failed:\n%s", names
	if (passed + failed == 0) { print "  no test ran"; exit 1 }
}
