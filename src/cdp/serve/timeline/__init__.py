"""The timeline: a web page to look at the history of served volumes, and to go back (`cdp serve --timeline`)."""
