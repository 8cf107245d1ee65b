"""What to do with the features of a folder of pictures: search across sources, and sort by content.

    ddm embed runs/mine images/ --portion invariant -o features.parquet
    python examples/search.py features.parquet photo/1.jpg

Prints the pictures of other sources that are most like one picture, and of each group that k-means
makes a picture from its middle. A source is a picture's first folder here; where `ddm discover`
found the domains, take them from its table, whose paths begin with the name of the folder.
"""

import sys

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans


def main(features: str, wanted: str, number: int = 5, groups: int = 8) -> pd.DataFrame:
    table = pd.read_parquet(features)  # a row an image: path, features
    h = np.stack(table["features"])
    h /= np.linalg.norm(h, axis=1, keepdims=True)  # so that h @ h.T holds cosines
    source = table["path"].str.split("/").str[0]

    if wanted not in set(table["path"]):
        raise SystemExit(f"{wanted} is not in {features}; its paths look like {table['path'][0]}")
    query = table.index[table["path"] == wanted][0]
    table["similarity"] = h @ h[query]
    # Without this a picture's neighbours are those of its own source, whatever they show.
    hits = table[source != source[query]].nlargest(number, "similarity")
    print(hits[["path", "similarity"]].to_string(index=False))

    means = KMeans(min(groups, len(h)), n_init=4, random_state=0).fit(h)
    table["group"] = means.labels_
    for group, members in table.groupby("group"):
        middle = (h[members.index] @ means.cluster_centers_[group]).argmax()
        print(f"group {group}: {len(members)} pictures, such as {members['path'].iloc[middle]}")
    return hits


if __name__ == "__main__":
    main(*sys.argv[1:])
