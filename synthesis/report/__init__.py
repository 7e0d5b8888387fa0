"""What is known of a finished data set: counted, measured by models, drawn, and written as a page.

`counting` counts texts, groups and people; `measures` asks CLIP and, in `diversity`, a sentence model; `charts` draws
the curves and bars; `page` writes the sections that every page has; `triplets` and `people` are the pages of both kinds
of pipelines:

    statistics.md      the page to read; written last, so where it is, the rest is whole
    statistics.json    every number on it
    *.png, *.jpg       charts; some pairs or people that were kept, and some that were rejected

Records are read once, one by one; memory holds counts, the distinct words and n-grams, and four bytes per score.
"""
