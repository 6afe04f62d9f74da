"""The verbs of databases and collections, embedded and remote alike.

A public method checks its arguments and hands them, in one form, to the abstract method of the same name with an
underscore. The two backends implement only those, so that they cannot drift apart.
"""
