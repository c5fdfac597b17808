"""The live page: watch agents of run folders in a browser, play against them, and compare many runs.

The pure parts (`player`, `session`, `thought`, `history`, `table`, ...) import no web framework; `server`, `page` and
`dashboard` lay them out with NiceGUI. The viewer reads run folders and never writes into them.
"""
