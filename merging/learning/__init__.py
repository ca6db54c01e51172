"""The method: coefficients learned by gradient descent on a few examples."""
