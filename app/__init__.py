"""The page in the browser and the JSON API beside it: one service answers both. Needs the extra `app`."""
