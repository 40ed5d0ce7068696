"""Protocols side by side on tasks whose right answer a program can tell: `fleet eval`.

`tasks` reads the task file, `stats` and `card` make the report card of what came out (pure), `configurations` says what
is compared and what each may spend, `running` puts the tasks to the councils of a stack and runs the ground truth.
"""
