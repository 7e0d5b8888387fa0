"""Papers as cards and data sets cite them: that of FAFA, SynCPR and ITCPR, and that of SynTBPR."""

CITATION = """\
@misc{liu2025automaticsyntheticdatafinegrained,
  title         = {Automatic Synthetic Data and Fine-grained Adaptive Feature Alignment for Composed Person Retrieval},
  author        = {Delong Liu and Haiwen Li and Zhaohui Hou and Zhicheng Zhao and Fei Su and Yuan Dong},
  year          = {2025},
  eprint        = {2311.16515},
  archivePrefix = {arXiv},
  primaryClass  = {cs.CV},
  url           = {https://arxiv.org/abs/2311.16515}
}
"""

SYNTBPR_CITATION = """\
@misc{cao2025empiricalstudy,
  title         = {An Empirical Study of Validating Synthetic Data for Text-Based Person Retrieval},
  author        = {Min Cao and ZiYin Zeng and YuXin Lu and Mang Ye and Dong Yi and Jinqiao Wang},
  year          = {2025},
  eprint        = {2503.22171},
  archivePrefix = {arXiv},
  primaryClass  = {cs.CV},
  url           = {https://arxiv.org/abs/2503.22171}
}
"""

__all__ = ["CITATION", "SYNTBPR_CITATION"]
