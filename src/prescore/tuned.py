"""Numbers that were chosen by measurement, together: what each is, and the script whose tables it was chosen from.

docs/design.md says how they were found, and on which data.
"""

# Which sampler (`prescore.samplers.choose`): benchmarks/solvers.py, Frechet distances and errors of the state.
NEAR_GAUSSIAN = 0.2  # share of the Gaussian model's error that a network leaves, from which on the data are near it
WORSE = 1.25  # the same share, from which on a network is worse than the model: good ones reach 1.07 at high noise
FEW_CALLS = 4  # up to which p-ode-2m serves better than p-ode-3m, which takes a call to start
TRUSTED = 0.9  # the same share, below which such a network is used as it is
LEAST_WEIGHT = 0.1  # of a network that is shrunk towards that model, from which on it is used (docs/design.md)
FITTED_TRUST = 1.15  # what the error of fitted weights counts, which is measured somewhat too small (docs/design.md)
MANY_CALLS = 40  # from which on churn serves better than exponential steps with noise

# Usual levels of solvers with a reference (`prescore.samplers.exponential`): benchmarks/solvers.py, grid "short".
WIDEST_RATIO = 4.5  # of neighbouring levels
LOWEST_LEVEL = 0.5  # of the data's deviation, over the number of steps
UNLIKE = 4.0  # deviations of vectors, largest over smallest, from which on a reference serves: benchmarks/vectors.py
LOWEST_OF_VECTORS = 0.25  # of the smallest deviation of a vector, the same: benchmarks/sbi_tasks.py
UNRESOLVED = 1e-5  # of the largest deviation of a vector, below which a direction is taken to be constant
WIDE = 64.0  # a noise range that goes beyond so many widths of the data range starts where the noise hides the data
HIDING = 16.0  # of the largest root mean square of a coordinate: noise that hides the data
SMALL = 64  # coordinates that an event is taken to have where nothing was measured of it

# Levels from errors of steps (`prescore.statistics.steps`): benchmarks/solvers.py --grids auto.
WINDOW = 0.7  # in lam, over which errors are averaged on either side
LONGEST_STEP = 2.5  # in lam: a factor 12 in sigma
TRIED_SOLVERS = ("unipc", "p-ode-3m")  # whose steps by themselves say too little: levels are tried for them
TRIED_STEPS = (4, 5, 6, 7, 8, 10, 13, 16, 20)
TRIED_LENGTHS = (0.125, 0.25, 0.5, 1.0)  # lowest level of geometric ones: of the data's deviation, over the steps
TRIED_SCALES = (0.5, 1.0, 2.0)  # of the data's deviation, for which a VP schedule is made whose times are uniform

# alpha of PDS (`prescore.samplers.alpha`, `recursion`): experiments/automatic_alpha.py.
FARTHEST = 1.1  # that samples may be from the marginals on the way, relative to the plain sampler
PRIOR = 2.0  # weight of what is known of a sample's scale beforehand, in the network's estimate of it

# What of samples is doubtful (`prescore.examine`): benchmarks/doubtful.py.
BEYOND = 0.1  # of the width of the data's range
BEYOND_SHARE = 0.01  # of all values, from which on it is said
ENERGY_RATIO = 4.0  # of a band of frequencies, and its inverse
ENOUGH_NUMBERS = 256  # in a band, of all samples
