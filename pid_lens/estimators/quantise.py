def solve_rows(p1,p2,tol):
    from pid_lens.estimators.discrete import union_information
    return union_information(p1,p2,tol=tol)
