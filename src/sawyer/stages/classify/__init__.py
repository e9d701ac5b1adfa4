"""Classifier: learn from labelled texts to which class, or classes, a text belongs.

Loss: cross entropy where each text has one label, binary cross entropy of each label where several may apply; summed over the
optimizer batch and divided once by its rows.
"""

from sawyer.stages.classify.classify_stage import train
