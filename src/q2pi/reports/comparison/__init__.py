"""Reports on many runs: numbers with intervals, figures and an HTML page.

    run folders --read--> cells (environment x method) --numbers--> a JSON-able dict --figures, page--> PNG, HTML, text

Figures and tables show only numbers of this dict.
"""
