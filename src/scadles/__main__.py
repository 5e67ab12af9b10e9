"""``python -m scadles``."""

from scadles.cli.app import main

main()
