"""The one reader of what models write: captions, prompts, edits and marks.

Models think aloud, greet, fence, quote, number, explain, apologise, repeat themselves and stop in mid-sentence. What
can be read in one way only is read; all else is an `UnusableAnswer`, whose short fixed phrase is counted: another
attempt costs little, and a wrong text would go into a data set.

`answering` finds the answer in a reply; `sentences` reads one text out of it, `marks` the marks of a judge. `faults`
says whether a text can stand in a data set, wherever it came from, with the help of `languages`.
"""
