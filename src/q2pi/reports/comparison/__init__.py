"""Reports on many runs: what their folders say, in numbers with intervals, figures and a page.

    run folders --read--> cells (environment x method) --numbers--> a JSON-able dict --figures, page--> PNG, HTML, text

Figures and tables show what the dict says and nothing else.
"""
