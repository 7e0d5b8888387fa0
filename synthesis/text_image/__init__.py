"""What makes text-image data sets of people: images with captions, several images per person.

The stages of `pipeline`, and what does their work:

    prompts/    `prompts`: templates, or templates that a language model writes out
    pictures/   any image model; every image shows a person of its own
    poses/      `poses`: keeps images of one person seen from head to knees, and cuts that person out
    edits/      `editing`: the same person somewhere else, by an image model that follows instructions
    edit_poses/ the pose filter again
    captions/   `captioning`: by a vision-language model, freely or along a template
    SynTBPR/    `assembly`: what `load_dataset("SynTBPR")` reads

The parts that do all this for painted people, without a model, are in `stand_ins/`.
"""
