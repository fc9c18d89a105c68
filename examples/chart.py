"""Sums sales by month with pandas and leaves a chart in `artifacts/`."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd


def main(title="Sales", sales=()):
    table = pd.DataFrame(sales, columns=["month", "region", "amount"])
    by_month = table.pivot_table(index="month", columns="region", values="amount", aggfunc="sum", sort=False)
    by_month = by_month.fillna(0)

    axes = by_month.plot.bar(title=title, rot=0, figsize=(6, 3.5))
    axes.set_ylabel("amount")
    plt.tight_layout()
    plt.savefig("artifacts/chart.png", dpi=110)
    by_month.to_csv("artifacts/sales.csv")

    best = by_month.sum(axis=1)
    print(by_month.to_string())
    return {"total": float(best.sum()), "best_month": str(best.idxmax()), "rows": len(table)}
